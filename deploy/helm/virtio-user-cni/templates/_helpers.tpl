{{- define "virtio-user.selectorLabels" -}}
app.kubernetes.io/name: virtio-user-cni
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: agent
{{- end }}

{{- define "virtio-user.labels" -}}
{{ include "virtio-user.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: virtio-user-cni
{{- end }}

{{- define "virtio-user.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/*
No values: the CNI executable has both built in (cni/agent_client.h, cni/delete_queue.h), and finds no agent elsewhere.
*/}}
{{- define "virtio-user.runDir" -}}/run/virtio-user{{- end }}
{{- define "virtio-user.stateDir" -}}/var/lib/virtio-user{{- end }}

{{- define "virtio-user.agentConfig" -}}
{{- $runDir := include "virtio-user.runDir" . -}}
{{- $paths := dict "cni-bin-dir" .Values.hostPaths.cniBinDir "run-dir" $runDir "state-dir" (include "virtio-user.stateDir" .) "ovsdb" (printf "unix:%s/db.sock" .Values.hostPaths.vswitchDir) "backend-dirs" (list (printf "%s/vhost" $runDir) .Values.hostPaths.vswitchDir) "device-info-dir" .Values.hostPaths.deviceInfoDir -}}
{{- merge (dict) .Values.agent $paths | toYaml -}}
{{- end }}

{{/* The probes' port is the one of the metrics; kubelet kills an agent that answers on another. */}}
{{- define "virtio-user.port" -}}
{{- $port := regexFind "[0-9]+$" (get .Values.agent "metrics-address") -}}
{{- $address := .Values.observability.metricsAddress -}}
{{- if and .Values.observability.serviceMonitor (ne $port (regexFind "[0-9]+$" $address)) -}}
{{- fail (printf "observability.metricsAddress %s has another port than agent.metrics-address %s: the probes need one port, give both the same" $address (get .Values.agent "metrics-address")) -}}
{{- end -}}
{{- $port -}}
{{- end }}
