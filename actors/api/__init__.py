"""The admin API: what operators and programs ask of an installation over HTTP."""
