package fleet

// ParsePatch is parsePatch, for its tests.
var ParsePatch = parsePatch
