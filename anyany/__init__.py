"""anyany: any mix of text, images, video and audio in; any mix of them out.

from anyany import AnyToAny
model = AnyToAny.from_pretrained("pocket")
reply = model.generate("draw a small red bell on the left", outputs={"text", "image"}, seed=7)
reply.images[0].save("bell.png")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from anyany.messages import AudioPart as AudioPart
    from anyany.messages import ImagePart as ImagePart
    from anyany.messages import Message as Message
    from anyany.messages import Reply as Reply
    from anyany.messages import TextPart as TextPart
    from anyany.messages import VideoPart as VideoPart
    from anyany.system import AnyToAny as AnyToAny
    from anyany.system_config import SystemConfig as SystemConfig

__version__ = "0.1.0"

_HOMES: Final = {
    "AnyToAny": "system",
    "AudioPart": "messages",
    "ImagePart": "messages",
    "Message": "messages",
    "Reply": "messages",
    "SystemConfig": "system_config",
    "TextPart": "messages",
    "VideoPart": "messages",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'anyany' has no attribute {name!r}")
    return getattr(import_module(f"anyany.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
