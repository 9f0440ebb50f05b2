"""Backups: made by ``sessions.backup``, looked at and restored by ``verger backup``."""
