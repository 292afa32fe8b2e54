"""What several importers use: archives, label files, RecordIO, FERPlus's files and rules; no importer itself."""
