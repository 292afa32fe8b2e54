"""Serve a page and a REST endpoint on this machine: pictures in, expressions out, nothing stored."""
