"""The command `rar-recognize`, and what all commands share."""
