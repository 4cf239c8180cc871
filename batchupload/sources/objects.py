"""A photo's s3:// address → the signed https:// address to fetch, by the `obstore` library: S3, Aliyun OSS, MinIO."""

import os
import re
from datetime import timedelta
from typing import TYPE_CHECKING

from yarl import URL

from batchupload.language import _
from batchupload.photos import PhotoError
from batchupload.reasons import Reason
from batchupload.shop_settings import PhotoSettings

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Store

VALID = timedelta(minutes=15)
"""How long a signed address holds."""
BUCKET = re.compile(r"(?!.*\.\.)[a-z0-9][a-z0-9.-]{0,61}[a-z0-9]")
"""2 to 63 characters, of which none can begin a port, a path or another host."""
NOT_IN_KEYS = re.compile(r"[\x00-\x1f\x7f\\?#]|(?:^|/)\.{0,2}(?:/|$)")
"""Characters that begin another part of an address, and empty, `.` and `..` folders."""
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_METADATA_ENDPOINT",
)
"""Variables of which one says where a key is. Without any, obstore asks 169.254.169.254, where a cloud machine has
its own keys; elsewhere that is a stranger, or costs ten seconds for each photo."""


class Objects:
    """Signs with the credentials that the environment has (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`).

    Only that: what is fetched is fetched as from anywhere else, by the same limits, and with no redirect.
    """

    def __init__(self, photos: PhotoSettings) -> None:
        self._photos = photos
        self._stores: dict[str, S3Store] = {}

    async def signed(self, address: str) -> str:
        """The address to fetch: on the host of the store, whatever stands in `address`. Raises `PhotoError`."""
        bucket, _slash, key = address[len("s3://") :].partition("/")
        if not bucket or not key:
            raise _refused(_("an s3:// address is s3://BUCKET/KEY"))
        if not BUCKET.fullmatch(bucket):
            raise _refused(_("a bucket has 2 to 63 lower-case letters, digits, dots and dashes"))
        if NOT_IN_KEYS.search(key):
            raise _refused(_("a key has no control character, none of \\ ? #, and no empty, . or .. folder"))
        if not any(map(os.environ.get, CREDENTIALS)):
            raise _unsigned()
        try:
            import obstore
            from obstore.exceptions import BaseError
        except ImportError:
            raise _refused(_("s3:// needs: pip install 'batchupload[s3]'")) from None
        try:
            found = URL(await obstore.sign_async(self._store(bucket), "GET", key, VALID), encoded=True)
            base = self._base(bucket) or URL(await obstore.sign_async(self._store(bucket), "GET", "k", VALID))
        except TypeError:  # what obstore says of a key that can't be
            raise _refused(_("no key that can be")) from None
        except (BaseError, OSError, ValueError):
            raise _unsigned() from None
        if found.origin() != base.origin() or not found.path.endswith(f"/{key}"):
            raise _refused(_("it leads off the object store"))
        return str(found)

    def _base(self, bucket: str) -> URL | None:
        """The host of a bucket at the store that is set; None if the library or its environment knows the store."""
        if self._photos.s3_endpoint is None:
            return None
        url = URL(self._photos.s3_endpoint)
        return url.with_host(f"{bucket}.{url.host}") if self._photos.s3_virtual_hosted else url

    def _store(self, bucket: str) -> "S3Store":
        from obstore.store import S3Store

        if bucket not in self._stores:
            config: S3Config = {"virtual_hosted_style_request": self._photos.s3_virtual_hosted}
            if self._photos.s3_region:
                config["region"] = self._photos.s3_region
            if base := self._base(bucket):
                config["endpoint"] = str(base).rstrip("/")
            self._stores[bucket] = S3Store(bucket, config=config, client_options={"allow_http": True})
        return self._stores[bucket]


def _refused(why: str) -> PhotoError:
    return PhotoError(Reason.PHOTO_ADDRESS_REFUSED, why)


def _unsigned() -> PhotoError:
    return PhotoError(
        Reason.PHOTO_UNREADABLE, _("not signed: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, see photos.s3_…")
    )
