"""The Asterisk Manager Interface: bytes, one connection, and a connection that is kept."""
