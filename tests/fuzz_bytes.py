"""Spoils bytes of any kind, as disks, links and strangers do."""

from random import Random


def spoilt(content: bytes, random: Random) -> bytes:
    """Changed at one place or a few, cut off, doubled in part, or with something behind it."""
    for _ in range(random.choice((1, 1, 1, 2, 8))):
        at = random.randrange(len(content) + 1)
        end = min(len(content), at + random.choice((1, 1, 2, 4, 64)))
        match random.randrange(6):
            case 0 | 1:
                content = content[:at] + random.randbytes(end - at) + content[end:]
            case 2:
                content = content[:at] + content[end:]
            case 3:
                content = content[:end] + content[at:]
            case 4:
                content = content[:at] if random.random() < 0.5 else content
            case 5:
                content += random.choice((bytes(9), random.randbytes(20), b"PK\x03\x04", content[:2000]))
    return content
