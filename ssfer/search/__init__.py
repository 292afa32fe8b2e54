"""Search of settings on labeled images that training does not see: the grey-wolf optimizer and what it is used for."""
