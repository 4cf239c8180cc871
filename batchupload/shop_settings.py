"""What can be set of a shop: its endpoint, the manifests it gets, the photos it takes."""

import codecs
import re
from pathlib import Path
from typing import Annotated, Literal, Self, get_args
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from batchupload.expressions import expression
from batchupload.hosts import is_this_machine
from batchupload.language import _

PhotoField = Literal["face", "back", "hand", "custom"]
"""The photos that a shop of this system may take; `custom` is a fourth that some products have."""
NO_CHARSETS = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7"})
"""What Python takes for an encoding and no file has; three of these give halves of characters."""
HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+(%[^\[\]]+)?\]|[^\[\]:%]+)(:[0-9]*)?")
"""An IPv6 address has its brackets, and nothing beside them: programs differ in what they take of that."""


def checked_url(url: str) -> SplitResult:
    """Take a URL apart, which every program must read in the same way. Raises `ValueError` that says what is wrong."""
    try:
        parts = urlsplit(url)
        port_is_good = parts.port != 0
    except ValueError as error:
        raise ValueError(_("not a URL: {error}", error=error)) from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port_is_good:
        raise ValueError(_("the URL must begin with http:// or https:// and name a host"))
    if "@" in parts.netloc or parts.fragment or any(c.isspace() or not c.isprintable() for c in url):
        raise ValueError(_("the URL must have no user name, no #fragment and no spaces"))
    if "\\" in url or not HOST_AND_PORT.fullmatch(parts.netloc):
        raise ValueError(_("the URL must have no backslash, and no more than a host and a port before its path"))
    return parts


def is_plain_to_elsewhere(url: str) -> bool:
    """Tell whether a URL is plain http to a host that is not surely this machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_this_machine(parts.hostname or "")


class Section(BaseModel):
    """Strict: an unknown key is a mistake, and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _is_what_it_looks_like(cls, value: object, info: ValidationInfo) -> object:
        """Refuse `true` for a number, which Python takes for 1, and text that no file name can have."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        kinds = {annotation, *get_args(annotation)}
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            raise ValueError(_("must be a number, not true or false"))
        if isinstance(value, str) and "\0" in value:
            raise ValueError(_("no NUL character can stand here"))
        return value


def compiled(pattern: str | None) -> str | None:
    """Raise a `ValueError` where `pattern` is no regular expression, or none that is matched in bounded time."""
    if pattern is not None:
        expression(pattern)
    return pattern


class ReplyRule(Section):
    """One row of the table that says what the endpoint's answers mean."""

    code: int | None = None
    message: str | None = None
    then: Literal["accept", "reject", "retry"]

    _message = field_validator("message")(compiled)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.code is None and self.message is None:
            raise ValueError(_("give it a code, a message pattern, or both"))
        return self


def field_name(name: str) -> str:
    """Raise a `ValueError` where it can't be the name of a form field everywhere."""
    if not re.fullmatch(r"[A-Za-z0-9_.\[\]-]{1,64}", name):
        raise ValueError(_("a field name has 1 to 64 ASCII letters, digits, or one of _ . - [ ]"))
    return name


class FieldNames(Section):
    """Names of the form fields on the wire."""

    order_id: str = "order_id"
    face: str = "face"
    back: str = "back"
    hand: str = "hand"
    custom: str = "custom"

    @field_validator("*")
    @classmethod
    def _plain(cls, name: str) -> str:
        return field_name(name)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        names = [self.order_id, self.face, self.back, self.hand, self.custom]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(_("two fields have the name {twice!r}; each needs its own", twice=twice))
        return self


class EndpointSettings(Section):
    """Where the photos go, and what the answers mean."""

    url: str = Field(
        "http://xg.tkcdk.cn/order/api/haoteam/getimg", description="The upload call; photos go nowhere else."
    )
    allow_plaintext: bool = Field(
        False, description="true sends ID photos over plain http:// to a host off this machine."
    )
    fields: FieldNames = Field(FieldNames(), description="Names of the form fields.")
    more_fields: dict[str, str] = Field(
        {}, description="Form fields that every upload has beside those, such as: {source: backfill}"
    )
    replies: tuple[ReplyRule, ...] = Field(
        (),
        description="What answers mean; the first match wins, else code 200 accepts and any other rejects. "
        'Such as: [{code: 400, message: "系统繁忙", then: retry}]',
    )
    max_reply_bytes: Annotated[int, Field(ge=1024, le=1 << 24)] = Field(
        65536, description="A longer answer is not read to its end and counts as unreadable."
    )

    @field_validator("more_fields")
    @classmethod
    def _sendable(cls, more: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        fields: FieldNames = info.data.get("fields", FieldNames())
        for name, value in more.items():
            if field_name(name) in fields.model_dump().values():
                raise ValueError(_("fields has {name!r} too; each field needs its own name", name=name))
            if not value.isprintable():
                raise ValueError(_("the value of {name} must be one line of plain text", name=name))
        return more

    @field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        checked_url(url)
        return url

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if is_plain_to_elsewhere(self.url) and not self.allow_plaintext:
            raise ValueError(
                _(
                    "{url} is plain http: ID photos would cross the network unencrypted. Use an https:// "
                    "address, or accept that with endpoint.allow_plaintext: true",
                    url=self.url,
                )
            )
        return self

    @field_validator("url")
    @classmethod
    def _has_a_name_that_can_be_looked_up(cls, url: str) -> str:
        from yarl import URL  # here, since most commands need it not

        try:
            address = URL(url)
            if address.host:  # raises for `xn--`
                str(address.raw_host).encode("idna")  # as the look-up does: `shop..example` is no name
        except ValueError as error:
            raise ValueError(_("not a URL: {error}", error=error)) from None
        return url


class Columns(Section):
    """Header names to look for before the known English and Chinese ones."""

    order_id: tuple[str, ...] = ()
    face: tuple[str, ...] = ()
    back: tuple[str, ...] = ()
    hand: tuple[str, ...] = ()
    custom: tuple[str, ...] = ()

    @field_validator("*", mode="before")
    @classmethod
    def _one_or_more(cls, names: object) -> object:
        return (names,) if isinstance(names, str) else names


class ManifestSettings(Section):
    """Which manifests are read, and how."""

    paths: tuple[Path, ...] = Field((), description="The manifests that `batchupload run` takes when none is named.")
    encoding: str = Field("auto", description="auto, or a name such as utf-8, gb18030, big5, utf-16.")
    delimiter: Literal["auto", ",", ";", "\t"] = Field("auto", description='auto, ",", ";" or "\\t".')
    sheet: str | None = Field(None, description="Sheet of a workbook; null is the first.")
    columns: Columns = Field(
        Columns(),
        description="Header names of your own for a column, such as order_id: [单号]; they go before the known names.",
    )
    required: tuple[PhotoField, ...] = Field(
        ("face", "back", "hand"), description="Photos that every order needs, of face, back, hand and custom."
    )
    optional: tuple[PhotoField, ...] = Field((), description="Photos that are sent where the manifest has them.")
    order_id_pattern: str = Field(
        "[A-Za-z0-9][A-Za-z0-9_-]{3,63}", description="Regular expression that a whole order number matches."
    )

    _pattern = field_validator("order_id_pattern")(compiled)

    @property
    def photo_fields(self) -> tuple[PhotoField, ...]:
        """The photos that are sent, in their order on the wire."""
        return tuple(field for field in get_args(PhotoField) if field in {*self.required, *self.optional})

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        named = [*self.required, *self.optional]
        twice = next((field for field in named if named.count(field) > 1), None)
        if twice is not None:
            raise ValueError(_("{twice} stands twice in required and optional; name each photo once", twice=twice))
        if not self.required:
            raise ValueError(_("required must name a photo: an order without any can't be sent"))
        return self

    @field_validator("encoding")
    @classmethod
    def _known(cls, encoding: str) -> str:
        if encoding != "auto":
            try:
                "".encode(encoding)  # which Python does only with what gives text
                name = codecs.lookup(encoding).name
            except (LookupError, UnicodeError, ValueError):
                name = "undefined"
            if name in NO_CHARSETS:
                raise ValueError(_("no such encoding; try utf-8, gb18030, big5 or utf-16"))
        return encoding


class PhotoSettings(Section):
    """Which photos are good enough to send."""

    root: Path | None = Field(
        None, description="Folder that relative paths start from; null is the manifest's own folder."
    )
    allow_outside_root: bool = Field(False, description="true takes photos from anywhere on this machine.")
    max_bytes: Annotated[int, Field(ge=1, le=1 << 30)] = Field(
        2 * 1024 * 1024, description="Largest photo, in bytes; the endpoint's limit."
    )
    max_pixels: Annotated[int, Field(ge=1, le=1_000_000_000)] = Field(
        50_000_000, description="Largest picture, width × height; decoding takes up to 4 bytes for each."
    )
    validate_: Literal["off", "header", "full"] = Field(
        "full",
        alias="validate",
        description="off: size and type. header: its header too. full: decode it to the end.",
    )
    allow_private_hosts: bool = Field(
        False, description="true fetches https:// photos also from hosts in private networks and from this machine."
    )
    fetches: Annotated[int, Field(ge=1, le=256)] = Field(
        16, description="Photos with an https:// or s3:// address that are fetched at once."
    )
    s3_endpoint: str | None = Field(
        None, description="Address of the object store for s3:// photos, such as https://oss-cn-hangzhou.aliyuncs.com."
    )
    s3_region: str | None = Field(None, description="Its region, such as cn-hangzhou.")
    s3_virtual_hosted: bool = Field(
        True, description="Whether a bucket is a host name of its own (S3, OSS) or part of the path (MinIO: false)."
    )
    allow_trailing_data: bool = Field(
        False, description="true sends photos with other data behind the picture (some phones write such)."
    )

    repair: tuple[Literal["resize", "heic", "orientation", "metadata"], ...] = Field(
        (),
        description="What may be done to the bytes that are sent, never to the file: resize (an oversize photo), heic "
        "(HEIC to JPEG), orientation (turned as EXIF says), metadata (GPS and the rest removed).",
    )
    repair_max_bytes: Annotated[int, Field(ge=1, le=1 << 30)] = Field(
        32 * 1024 * 1024, description="Largest photo, in bytes, that is read to be repaired."
    )

    warn: bool = Field(
        True,
        description="Warns of photos that look wrong: the same in two fields or orders, small, blank. It changes no "
        "outcome; with header only what is cheap is looked at, with off only other orders.",
    )
    small_side: Annotated[int, Field(ge=0, le=100_000)] = Field(
        300, description="Warns where the shorter side has fewer pixels than this."
    )

    @property
    def read_limit(self) -> int:
        """Bytes of a photo that is read at most."""
        return max(self.max_bytes, self.repair_max_bytes) if self.repair else self.max_bytes

    @field_validator("s3_endpoint")
    @classmethod
    def _secure(cls, address: str | None) -> str | None:
        if address is not None and (checked_url(address).query or is_plain_to_elsewhere(address)):
            raise ValueError(_("give an https:// address (http:// only for this machine)"))
        return address

    @field_validator("validate_", mode="before")
    @classmethod
    def _off(cls, level: object) -> object:
        return "off" if level in (False, "no") else level
