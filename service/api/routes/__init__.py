"""The HTTP surface, one file per family. Every handler reads: parse → submit → render."""
