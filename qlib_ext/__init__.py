"""A qlib plugin: stock selection as ranking one day's whole market, judged by what real money could earn."""

from qlib_ext import moved

__version__ = "0.1.0"

moved.install()
