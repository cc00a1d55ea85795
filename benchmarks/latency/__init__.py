"""How long answers take in MLPerf's scenarios, stage by stage."""
