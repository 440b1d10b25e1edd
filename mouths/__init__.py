"""Mouths of pictures of faces: how open, where their lips are, what is inside; warped, and put on other poses."""
