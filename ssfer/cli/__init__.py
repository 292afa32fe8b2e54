"""`ssfer COMMAND`: one thin module per command, no logic."""
