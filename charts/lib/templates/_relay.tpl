{{/*
The relay, for its own chart and for CloudCore's, whose Pod it joins. Both take the
relay's values: image, runAs, namespace, capabilitySecret, ingest, admin, health, and
if wanted queue and resources. Its Pod needs the node's network, a token for the API
server and fsGroup = runAs.group, by which it may read the key.
*/}}

{{- define "testbed.relay.container" -}}
name: relay
{{ include "testbed.container" (merge (dict) . (dict "resources" (dict "requests" (dict "cpu" "10m" "memory" "64Mi")))) }}
command: [/usr/bin/relay]
args:
- {{ printf "--health=127.0.0.1:%v" .health | quote }}
- {{ printf "--namespace=%s" .namespace | quote }}
- {{ printf "--ingest=%s" .ingest | quote }}
- {{ printf "--admin=%s" .admin | quote }}
- --capability-key=/etc/testbed/capability/key
{{- with .queue }}
- {{ printf "--queue=%v" . | quote }}
{{- end }}
ports:
- name: relay-health
  containerPort: {{ .health }}
  protocol: TCP
{{ include "testbed.health" (dict "health" .health "loopback" true) }}
volumeMounts:
- name: capability
  mountPath: /etc/testbed/capability
  readOnly: true
{{- end }}

{{/* Its volume, and the router's: the key of capabilities. */}}
{{- define "testbed.relay.volume" -}}
name: capability
secret:
  secretName: {{ .capabilitySecret }}
  defaultMode: 0440
  items:
  - key: key
    path: key
{{- end }}
