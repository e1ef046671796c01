"""Frames of vendors (Baostock, AKShare, Tushare, one's own) into a qlib provider folder, checked and in one step."""

from qlib_ext.ingest.bars import Bars, read_bars
from qlib_ext.ingest.importing import Imported, import_frames
from qlib_ext.ingest.vendors import MEANINGS, VENDORS, Vendor, vendor_of

__all__ = ["Bars", "Imported", "MEANINGS", "VENDORS", "Vendor", "import_frames", "read_bars", "vendor_of"]
