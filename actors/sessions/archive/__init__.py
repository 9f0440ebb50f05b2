"""Archives of old session files: made by ``sessions.archive``, looked at and unpacked by ``verger archive``."""
