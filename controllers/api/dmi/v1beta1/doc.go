// Package v1beta1 is the Device Mapper Interface of KubeEdge v1.23: what a mapper
// and the edge runtime of its node say to each other over two unix sockets. It is
// generated from dmi.proto, which says what either side does with it.
//
// It registers itself under KubeEdge's own name, the proto package v1beta1, so a
// program may not have KubeEdge's package in it as well.
package v1beta1
