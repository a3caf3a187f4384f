package heartbeat

import (
	"runtime"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// kubeletVersion is KubeEdge's form, "<Kubernetes>-kubeedge-<KubeEdge>".
const kubeletVersion = "v1.34.4-kubeedge-hollow"

// labels are KubeEdge's own and the one that makes a node one with sensors.
func labels(name string) map[string]string {
	return map[string]string{
		"node-role.kubernetes.io/agent":  "",
		"node-role.kubernetes.io/edge":   "",
		"node-role.fluidos.eu/sensors":   "true",
		corev1.LabelHostname:             name,
		corev1.LabelOSStable:             runtime.GOOS,
		corev1.LabelArchStable:           runtime.GOARCH,
		"beta." + corev1.LabelOSStable:   runtime.GOOS,
		"beta." + corev1.LabelArchStable: runtime.GOARCH,
	}
}

// setStatus writes what EdgeCore reports of a healthy node. No pod fits on it:
// nothing would run it.
func setStatus(n *corev1.Node, now time.Time) {
	resources := corev1.ResourceList{
		corev1.ResourceCPU:              resource.MustParse("1"),
		corev1.ResourceMemory:           resource.MustParse("1Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("1Gi"),
		corev1.ResourcePods:             resource.MustParse("0"),
	}
	n.Status.Capacity, n.Status.Allocatable = resources, resources.DeepCopy()
	n.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: "127.0.0.1"},
		{Type: corev1.NodeHostName, Address: n.Name},
	}
	n.Status.NodeInfo.KubeletVersion = kubeletVersion
	n.Status.NodeInfo.OperatingSystem = runtime.GOOS
	n.Status.NodeInfo.Architecture = runtime.GOARCH
	n.Status.NodeInfo.OSImage = "hollow"
	n.Status.NodeInfo.KernelVersion = "hollow"
	n.Status.NodeInfo.ContainerRuntimeVersion = "hollow://0"
	for _, c := range []corev1.NodeCondition{
		{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientMemory", Message: "hollow node has sufficient memory available"},
		{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasNoDiskPressure", Message: "hollow node has no disk pressure"},
		{Type: corev1.NodePIDPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientPID", Message: "hollow node has sufficient PID available"},
		{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "hollow edge runtime is posting ready status"},
	} {
		setCondition(&n.Status, c, metav1.NewTime(now))
	}
}

// setCondition keeps the time of the last transition if there is none.
func setCondition(s *corev1.NodeStatus, c corev1.NodeCondition, now metav1.Time) {
	c.LastHeartbeatTime, c.LastTransitionTime = now, now
	for i, old := range s.Conditions {
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		s.Conditions[i] = c
		return
	}
	s.Conditions = append(s.Conditions, c)
}
