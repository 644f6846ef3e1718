"""Bridges to training code and environments that do not speak Gymnasium's vector interface.

Each module needs the library whose name it bears, so none is imported here.
"""
