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

{{- define "virtio-user.agentConfig" -}}
{{- $paths := dict "cni-bin-dir" .Values.hostPaths.cniBinDir "run-dir" .Values.hostPaths.runDir "state-dir" .Values.hostPaths.stateDir "ovsdb" (printf "unix:%s/db.sock" .Values.hostPaths.vswitchDir) "backend-dirs" (list (printf "%s/vhost" .Values.hostPaths.runDir) .Values.hostPaths.vswitchDir) "device-info-dir" .Values.hostPaths.deviceInfoDir -}}
{{- merge (dict) .Values.agent $paths | toYaml -}}
{{- end }}

{{/* The probes' port is the one of the metrics. */}}
{{- define "virtio-user.port" -}}
{{- regexFind "[0-9]+$" (get .Values.agent "metrics-address") -}}
{{- end }}
