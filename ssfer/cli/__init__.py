"""`ssfer COMMAND`: one thin module per command or group; the work is done in the domains' packages."""
