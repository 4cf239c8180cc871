"""What goes wrong while a photo is read and decoded → the reason for it: the photo, or this machine."""

import errno
import struct

from PIL import Image, UnidentifiedImageError

from batchupload.language import _
from batchupload.model import Problem
from batchupload.reasons import Reason

USUAL_DAMAGE = (UnidentifiedImageError, OSError, ValueError, SyntaxError, IndexError, KeyError, struct.error)
"""What Pillow's decoders raise on damaged files. Its documentation promises no types: any other means the same, and is
named in `detail`."""
MOST_ERROR = 100
"""Characters of a decoder's own words that are shown."""
DISK_ERRORS = frozenset(
    getattr(errno, name)
    for name in (
        "EIO", "ESTALE", "ENOTCONN", "ETIMEDOUT", "ENODEV", "ENXIO", "EREMOTEIO", "EHOSTDOWN", "EHOSTUNREACH",
        "ENETDOWN", "ENETUNREACH", "ECONNRESET", "ECONNABORTED", "ECONNREFUSED", "EPIPE", "EAGAIN", "ENOMEM",
        "EKEYEXPIRED", "ENOLINK", "EPROTO", "EUCLEAN", "EBADMSG", "EINTR", "ECOMM", "ESHUTDOWN", "ENOMEDIUM",
    )
    if hasattr(errno, name)
)  # fmt: skip
"""Nothing is wrong with the photo as far as is known: the disk, or the way to it, failed."""


class PhotoError(Exception):
    """A photo can't be sent; carries the `problem`."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.problem = Problem(reason, detail)


class FilesExhaustedError(Exception):
    """This machine is out of open files: nothing is wrong with the photo."""


def unreadable(error: OSError) -> Exception:
    """What the system's error says of the photo, or of the disk."""
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return FilesExhaustedError()
    if error.errno in {errno.ELOOP, errno.EINVAL}:  # EINVAL: what was a link a moment ago is none when it is read
        return PhotoError(Reason.PHOTO_OUTSIDE_ROOT, _("a link that leads round or was swapped in"))
    reason = Reason.PHOTO_DISK_ERROR if error.errno in DISK_ERRORS else Reason.PHOTO_UNREADABLE
    return PhotoError(reason, (error.strerror or "").lower())


def damage(error: Exception) -> PhotoError:
    """What a decoder's error says of the photo."""
    if isinstance(error, PhotoError):
        return error
    if isinstance(error, Image.DecompressionBombError):
        return PhotoError(Reason.PHOTO_TOO_MANY_PIXELS, _("more than the decoder takes"))
    if isinstance(error, USUAL_DAMAGE):
        return PhotoError(Reason.PHOTO_TRUNCATED if "truncated" in str(error) else Reason.PHOTO_CORRUPT, "")
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return PhotoError(Reason.PHOTO_CORRUPT, text[:MOST_ERROR])


def too_large(size: int, limit: int) -> PhotoError:
    """A photo of `size` bytes, which is over the `limit`."""
    return PhotoError(Reason.PHOTO_TOO_LARGE, _("{size} bytes, at most {limit}", size=size, limit=limit))
