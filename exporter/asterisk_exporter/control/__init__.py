"""Calls and queue members, changed over AMI's ``control`` login; done when Asterisk says so."""
