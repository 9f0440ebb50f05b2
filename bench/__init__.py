"""The benchmark: Verger beside its peers, on servers of its own. Run it with ``make bench``."""
