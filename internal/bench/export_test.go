package bench

// What tests see of the rows.
var PickNodeImage = pickNodeImage
