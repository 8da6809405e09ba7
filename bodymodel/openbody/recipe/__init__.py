"""How the open body is made. Needs ``anny``; nothing here is imported at run time."""
