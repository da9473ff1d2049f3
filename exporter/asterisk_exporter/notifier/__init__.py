"""Tells a CRM of each missed call, once it is decided: at least once and in order."""
