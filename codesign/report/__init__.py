"""Reports: result.json, and pages drawn from it without computing anything."""
