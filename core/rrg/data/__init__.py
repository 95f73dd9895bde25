"""Studies on disk: what a study is (`study`), new folders (`write`), films (`films`) and importers."""
