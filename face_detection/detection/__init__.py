"""Face detectors behind one interface; each is imported only when it is used."""
