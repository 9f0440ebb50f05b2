"""The kinds of session files that can be collected."""

from actors.sessions.adapters.claude_code import ClaudeCode
from actors.sessions.adapters.port import Adapter

ADAPTERS: dict[str, Adapter] = {adapter.name: adapter for adapter in (ClaudeCode(),)}
