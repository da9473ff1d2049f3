"""Where a call goes, as the CRM says: safely, and in two seconds at most."""
