"""The fixtures of `page_fixtures`; mypy reads that file, as it can only hold one conftest."""

from page_fixtures import *  # noqa: F403
