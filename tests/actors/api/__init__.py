"""The admin API, served on a real socket."""
