{{- define "layra.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "layra.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "layra.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "layra.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "layra.selectorLabels" -}}
app.kubernetes.io/name: {{ include "layra.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "layra.labels" -}}
{{ include "layra.selectorLabels" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: layra
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* The field `annotations` of an object's metadata: the common ones and, as a dict's own, its own. */ -}}
{{- define "layra.annotations" -}}
{{- with merge (dict) (.own | default dict) .root.Values.commonAnnotations -}}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "layra.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "layra.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name is required when serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* An image reference: takes a dict of image (values) and version (default tag). */ -}}
{{- define "layra.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .version }}
{{- end }}
{{- end }}

{{- define "layra.watchNamespaces" -}}
{{- .Values.watchNamespaces | default (list .Release.Namespace) | join "," }}
{{- end }}

{{- define "layra.watched" -}}
{{- .Values.watchNamespaces | default (list .Release.Namespace) | toYaml }}
{{- end }}

{{- /* Labels by which all query pods of all pipelines are selected. */ -}}
{{- define "layra.querySelectorLabels" -}}
app.kubernetes.io/name: layra-query
app.kubernetes.io/component: query
{{- end }}

{{- /* Labels by which all workers of all pipelines are selected. */ -}}
{{- define "layra.workerSelectorLabels" -}}
app.kubernetes.io/name: layra-worker
app.kubernetes.io/component: worker
{{- end }}
