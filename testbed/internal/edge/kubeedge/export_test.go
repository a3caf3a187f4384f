package kubeedge

// NotReady is notReady.
var NotReady = notReady
