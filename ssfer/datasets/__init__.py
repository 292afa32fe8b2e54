"""What people bring: one importer per data set, and what importers share."""
