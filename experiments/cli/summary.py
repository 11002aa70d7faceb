"""What a command prints at its end."""

from __future__ import annotations
