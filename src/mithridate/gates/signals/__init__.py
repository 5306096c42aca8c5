"""Signals of the upload gate, one file each; `mithridate.gates.signal_catalog` lists them."""
