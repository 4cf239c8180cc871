"""Why an order ended as it did: the stable codes and, beside each, its sentence for a person."""

from enum import StrEnum
from typing import Self

from batchupload.language import _


class Explained(StrEnum):
    """A stable snake_case code, with `sentence`: what it means and what to do."""

    english: str
    """The sentence as the code has it; what the catalogue is asked for."""

    def __new__(cls, code: str, sentence: str) -> Self:
        """A member is its code; the sentence comes along as an attribute."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.english = sentence
        return member

    @property
    def sentence(self) -> str:
        """What it means and what to do, in the language chosen."""
        return _(self.english)


class Reason(Explained):
    """Why a row ended as it did; a code of the report."""

    # uploaded
    ACCEPTED = "accepted", "The endpoint accepted the photos."
    ACCEPTED_CHANGED = (
        "accepted_changed",
        "The endpoint accepted the photos; they differ from those an earlier run had uploaded.",
    )
    # skipped
    ALREADY_UPLOADED = "already_uploaded", "An earlier run uploaded these same photos; --force sends them again."
    # duplicate
    REPEATED_ROW = (
        "repeated_row",
        "An earlier row has the same order and the same photos; see the outcome of that row.",
    )

    # invalid: the row
    MISSING_CELL = "missing_cell", "The row lacks a cell that is needed: fill it in."
    EXTRA_CELLS = "extra_cells", "The row has more cells than the header: look for a stray separator."
    STRAY_QUOTE = "stray_quote", "The row's quotes don't pair up: close the quoted cell or remove the quote."
    ROW_UNREADABLE = "row_unreadable", "The line is no JSON object with columns as keys: correct it."
    ROW_TOO_LONG = "row_too_long", "The row is longer than 256 KiB: this is hardly a row of a manifest."
    NUL_CHARACTER = "nul_character", "The row holds a NUL character: save the manifest again as plain CSV."
    ORDER_ID_EMPTY = "order_id_empty", "The order number is empty: fill it in."
    ORDER_ID_MALFORMED = (
        "order_id_malformed",
        "The order number isn't of the shop's form (manifest.order_id_pattern): correct it.",
    )
    CONFLICTING_ROWS = (
        "conflicting_rows",
        "Other rows have this order with other photos: keep the right row and delete the others.",
    )

    # invalid: a photo
    PHOTO_MISSING = "photo_missing", "There is no such file: correct the path or bring the photo."
    PHOTO_OUTSIDE_ROOT = (
        "photo_outside_root",
        "The path leaves the photo folder: move the photo, or set photos.root or photos.allow_outside_root.",
    )
    PHOTO_NOT_A_FILE = "photo_not_a_file", "This is a folder, a pipe or a device, not a photo."
    PHOTO_UNREADABLE = (
        "photo_unreadable",
        "The photo can't be read: see detail; check its permissions and the disk, or what its host says.",
    )
    PHOTO_EMPTY = "photo_empty", "The file is empty: bring the photo again."
    PHOTO_TOO_LARGE = "photo_too_large", "The photo is larger than the endpoint takes: save it smaller."
    PHOTO_WRONG_TYPE = "photo_wrong_type", "Not a JPEG or PNG, whatever its name says: save it as one."
    PHOTO_TRUNCATED = "photo_truncated", "The photo is cut off: its end is missing. Copy it again."
    PHOTO_CORRUPT = "photo_corrupt", "The photo is damaged and can't be decoded: copy or take it again."
    PHOTO_TOO_MANY_PIXELS = (
        "photo_too_many_pixels",
        "The picture has more pixels than photos.max_pixels: save it smaller.",
    )
    PHOTO_TOO_COMPLEX = (
        "photo_too_complex",
        "The picture is stored in so odd a way that decoding it would take minutes: save it anew.",
    )
    PHOTO_TRAILING_DATA = (
        "photo_trailing_data",
        "Something else follows the picture in the file: save it anew, or set photos.allow_trailing_data.",
    )
    PHOTO_REPEATED = "photo_repeated", "The same picture stands in two fields of this order: put in the right one."
    PHOTO_ADDRESS_REFUSED = (
        "photo_address_refused",
        "A photo may not be fetched from this address: bring the file, or an address that is allowed.",
    )
    PHOTO_CHANGED = "photo_changed", "The photo was changed or removed while the order was under way: run again."

    # rejected
    ENDPOINT_REFUSED = "endpoint_refused", "The endpoint understood the order and refused it: read its message."
    BODY_TOO_LARGE = (
        "body_too_large",
        "The endpoint's size limit is below these photos (413): save them smaller, or have the limit raised.",
    )
    HTTP_REFUSED = "http_refused", "The endpoint refused the request with an HTTP error: see http_status."

    # failed: the address is wrong, which trying again doesn't mend
    REDIRECTED = (
        "redirected",
        "The endpoint redirects to another address, which is never followed: correct endpoint.url.",
    )
    WRONG_ADDRESS = (
        "wrong_address",
        "There is no such upload call at this address (401, 403, 404 or 405): correct endpoint.url.",
    )
    TLS_FAILED = (
        "tls_failed",
        "The endpoint's TLS certificate can't be trusted: correct endpoint.url or the certificate.",
    )
    CERTIFICATE_DATE = (
        "certificate_date",
        "The endpoint's TLS certificate isn't valid by this machine's clock: set the clock (NTP), or have it renewed.",
    )

    # failed, after every attempt; the endpoint certainly did not accept it
    DNS_FAILED = "dns_failed", "The endpoint's host name was not found: check endpoint.url and the network."
    CONNECTION_REFUSED = "connection_refused", "The endpoint refused the connection: is it up?"
    CONNECT_TIMEOUT = "connect_timeout", "The endpoint did not take the connection in time: is it up?"
    CONNECT_FAILED = "connect_failed", "No connection to the endpoint: check the network."
    WORKER_LOST = (
        "worker_lost",
        "The worker that had this order was lost; if it was just sending it, it may have been accepted.",
    )
    UPLOAD_RESET = "upload_reset", "The connection broke in the middle of the upload."
    UPLOAD_STALLED = "upload_stalled", "The endpoint stopped taking the upload."
    RATE_LIMITED = "rate_limited", "The endpoint asked for a slower pace (429): lower pace.concurrency."
    REQUEST_TIMEOUT = "request_timeout", "The endpoint gave up waiting for the upload (408)."
    TOO_EARLY = "too_early", "The endpoint was not ready for the request (425)."
    UNAVAILABLE = "unavailable", "The endpoint was unavailable (503)."
    SERVER_ERROR = "server_error", "The endpoint broke off with an HTTP error of the 500s: see http_status."
    ENDPOINT_BUSY = "endpoint_busy", "The endpoint's answer means 'try later' (endpoint.replies): see its message."
    FILES_EXHAUSTED = "files_exhausted", "This machine ran out of open files: raise `ulimit -n` or lower concurrency."

    # unknown: it may have been accepted
    REPLY_LOST = "reply_lost", "The connection broke after the upload, before its answer."
    REPLY_TIMEOUT = "reply_timeout", "The upload went out whole, but no answer came in time."
    REPLY_MALFORMED = "reply_malformed", "The answer broke the rules of HTTP."
    REPLY_UNREADABLE = "reply_unreadable", "The answer isn't the endpoint's JSON (an HTML page, or cut short)."
    REPLY_TOO_LARGE = "reply_too_large", "The answer is longer than endpoint.max_reply_bytes."
    REPLY_WITHOUT_CODE = "reply_without_code", "The answer is JSON without a usable `code`."
    REPLY_TOO_EARLY = "reply_too_early", "The endpoint said it accepted before it can have had all of the upload."

    # deferred
    NOT_SENT = "not_sent", "Checked and in order; nothing was sent, as was asked."
    STOPPED = "stopped", "The run was stopped before this order was done: run again."
    ENDPOINT_DOWN = "endpoint_down", "The run ended early because the endpoint is down: run again later."
    ADDRESS_REFUSED = (
        "address_refused",
        "The run ended early because no order can be sent to this address: mend what was met, and run again.",
    )
    CANARY = "canary", "The run ended early because its first orders nearly all met the same (pace.canary)."
    MAX_FAILURES = "max_failures", "The run ended early because more went wrong than pace.max_failures allows."
    DEADLINE = "deadline", "The run ended early because its deadline came: run again."
    WORKERS_LOST = "workers_lost", "The run ended early because no worker was left: see the cluster, run again."
    LEDGER_LOST = "ledger_lost", "The run ended early because its ledger could no longer be written: see the disk."
    REPORT_LOST = "report_lost", "The run ended early because its report could no longer be written."
    ORDER_TIME_LIMIT = "order_time_limit", "The order's time (retry.order_limit) ran out between attempts: run again."
    PHOTO_NOT_FETCHED = (
        "photo_not_fetched",
        "A photo could not be fetched from its address: run again, or see what its host has.",
    )
    QUARANTINED = (
        "quarantined",
        "Set aside: it failed with these photos night after night. See detail, mend it, then `batchupload release` it.",
    )
    PHOTO_READ_TIMEOUT = "photo_read_timeout", "Reading the photos took too long: check the disk or share, run again."
    PHOTO_DECODE_TIMEOUT = (
        "photo_decode_timeout",
        "Decoding the photo took too long, and was given up: save it anew, or run again if this machine was busy.",
    )
    PHOTO_FOLDER_GONE = (
        "photo_folder_gone",
        "Photos that were there are gone, or many in a row are missing: bring them (mount the folder), run again.",
    )
    PHOTO_DISK_ERROR = (
        "photo_disk_error",
        "The disk or share failed while the photo was read (see detail): check it, run again.",
    )
    READERS_LOST = (
        "readers_lost",
        "The run ended early because decoding hung again and again: see photo_decode_timeout in the report.",
    )
    MANIFEST_LOST = (
        "manifest_lost",
        "The manifest could not be read on to this row in mid-run: see the summary, run the same command again.",
    )
    INTERNAL_ERROR = "internal_error", "A fault in batchupload itself; please report it with the message on the screen."
