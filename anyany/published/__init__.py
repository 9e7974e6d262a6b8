"""Checkpoints that others have published, in their own layouts, to folders of ours."""

from anyany.published.nextgpt import Imported, import_nextgpt

__all__ = ["Imported", "import_nextgpt"]
