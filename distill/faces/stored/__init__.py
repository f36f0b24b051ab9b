"""Training faces that are read from disk: packs of records, folders of images, manifests."""

from distill.faces.stored.decoding import CorruptImages, EncodedStore, decode
from distill.faces.stored.records import RecordStore
from distill.faces.stored.sources import SourceSettings, mix, open_source, subset
from distill.faces.stored.views import corrupt_images

__all__ = [
    "CorruptImages",
    "EncodedStore",
    "RecordStore",
    "SourceSettings",
    "corrupt_images",
    "decode",
    "mix",
    "open_source",
    "subset",
]
