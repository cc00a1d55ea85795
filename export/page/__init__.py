"""Pages of HTML that stand alone: what they show is in them, and they load nothing."""
