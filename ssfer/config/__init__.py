"""params.yaml as typed settings: loading, validation, profiles."""
