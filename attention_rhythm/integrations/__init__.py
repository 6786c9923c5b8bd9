"""The method inside training frameworks that others keep: one folder each."""
