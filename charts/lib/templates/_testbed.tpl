{{/*
Names in here take either a chart's root (.) or a component's values; each says which.
Charts refer to nothing that changes between releases of the same values
(.Release.Revision, .Capabilities, lookup, random): what is rendered is compared
to tell whether anything has to be done.
*/}}

{{/* Root: labels that never change, by which a Deployment finds its Pods. */}}
{{- define "testbed.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Root: labels of every object and Pod. */}}
{{- define "testbed.labels" -}}
{{ include "testbed.selector" . }}
app.kubernetes.io/part-of: testbed
app.kubernetes.io/component: {{ .Chart.Name }}
{{- end }}

{{/* Root: metadata of every object. All objects of a release have its name. */}}
{{- define "testbed.metadata" -}}
name: {{ .Release.Name }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "testbed.labels" . | nindent 2 }}
{{- end }}

{{/*
Root: the ServiceAccount. Rights are bound to its name elsewhere (charts/rbac), so a
component that uses the API is released under its own name.
*/}}
{{- define "testbed.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "testbed.metadata" . | nindent 2 }}
automountServiceAccountToken: false
{{- end }}

{{/* Root: a Deployment's spec but for its template. Two of a component at a time would count double. */}}
{{- define "testbed.deployment" -}}
replicas: 1
revisionHistoryLimit: 1
strategy:
  type: Recreate
selector:
  matchLabels:
    {{- include "testbed.selector" . | nindent 4 }}
{{- end }}

{{/* Root: a Pod template's metadata; changed files restart the Pod. */}}
{{- define "testbed.podMetadata" -}}
labels:
  {{- include "testbed.labels" . | nindent 2 }}
{{- if or .Values.config .Values.secretChecksum }}
annotations:
  {{- with .Values.config }}
  checksum/config: {{ . | sha256sum }}
  {{- end }}
  {{- with .Values.secretChecksum }}
  checksum/secret: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Root: a Pod's spec but for containers, volumes, network and token. */}}
{{- define "testbed.pod" -}}
serviceAccountName: {{ .Release.Name }}
enableServiceLinks: false
terminationGracePeriodSeconds: 10
securityContext:
  runAsNonRoot: {{ not .Values.root }}
  runAsUser: {{ if .Values.root }}0{{ else }}{{ .Values.runAs.user }}{{ end }}
  runAsGroup: {{ .Values.runAs.group }}
  fsGroup: {{ .Values.runAs.group }}
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
Values: a container but for its name, command and mounts. The end of its log goes into
the Pod's status, for nodes whose logs cannot be read through the API server.
*/}}
{{- define "testbed.container" -}}
image: {{ .image | quote }}
imagePullPolicy: IfNotPresent
terminationMessagePolicy: FallbackToLogsOnError
securityContext:
  runAsNonRoot: {{ not .root }}
  runAsUser: {{ if .root }}0{{ else }}{{ .runAs.user }}{{ end }}
  runAsGroup: {{ .runAs.group }}
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
    {{- if .root }}
    add: [CHOWN, DAC_OVERRIDE] # to share folders with those who are not root
    {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- with .resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
Probes by a handler each, as dict "live" "ready". Patient with what lives: on a busy
machine a restart costs more than waiting.
*/}}
{{- define "testbed.probes" -}}
livenessProbe:
  {{- .live | nindent 2 }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  {{- .ready | nindent 2 }}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 3
{{- end }}

{{/* Probes of one of our programs, as dict "health" (port) "loopback" (whether it listens there only). */}}
{{- define "testbed.health" -}}
{{- $get := dict "port" .health }}
{{- if .loopback }}{{ $_ := set $get "host" "127.0.0.1" }}{{ end }}
{{- $live := dict "httpGet" (merge (dict "path" "/healthz") $get) | toYaml }}
{{- $ready := dict "httpGet" (merge (dict "path" "/readyz") $get) | toYaml }}
{{- include "testbed.probes" (dict "live" $live "ready" $ready) }}
{{- end }}

{{/* A network that is the node's: names are its own, and listeners are on its addresses. */}}
{{- define "testbed.hostNetwork" -}}
hostNetwork: true
dnsPolicy: Default
{{- end }}
