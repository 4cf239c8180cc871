"""A photo's s3:// address → the signed https:// address to fetch, by the `obstore` library: S3, Aliyun OSS, MinIO."""

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


class Objects:
    """Signs with the credentials that the environment has (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`).

    Only that: what is fetched is fetched as from anywhere else, by the same limits, and with no redirect.
    """

    def __init__(self, photos: PhotoSettings) -> None:
        self._photos = photos
        self._stores: dict[str, S3Store] = {}

    async def signed(self, address: str) -> str:
        """The address to fetch. Raises `PhotoError`."""
        bucket, _slash, key = address[len("s3://") :].partition("/")
        if not bucket or not key:
            raise PhotoError(Reason.PHOTO_ADDRESS_REFUSED, _("an s3:// address is s3://BUCKET/KEY"))
        try:
            import obstore
            from obstore.exceptions import BaseError
        except ImportError:
            raise PhotoError(Reason.PHOTO_ADDRESS_REFUSED, _("s3:// needs: pip install 'batchupload[s3]'")) from None
        try:
            return await obstore.sign_async(self._store(bucket), "GET", key, VALID)
        except (BaseError, OSError, ValueError):
            raise PhotoError(
                Reason.PHOTO_UNREADABLE,
                _("not signed: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, see photos.s3_…"),
            ) from None

    def _store(self, bucket: str) -> "S3Store":
        from obstore.store import S3Store

        if bucket not in self._stores:
            config: S3Config = {"virtual_hosted_style_request": self._photos.s3_virtual_hosted}
            if self._photos.s3_region:
                config["region"] = self._photos.s3_region
            if self._photos.s3_endpoint:
                url = URL(self._photos.s3_endpoint)
                url = url.with_host(f"{bucket}.{url.host}") if self._photos.s3_virtual_hosted else url
                config["endpoint"] = str(url).rstrip("/")
            self._stores[bucket] = S3Store(bucket, config=config, client_options={"allow_http": True})
        return self._stores[bucket]
