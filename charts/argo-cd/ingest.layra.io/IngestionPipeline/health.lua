-- What Argo CD shows of an IngestionPipeline, from its conditions. Without it every custom resource
-- is Healthy.
local health = {status = "Progressing", message = "Waiting for the operator"}
if obj.spec ~= nil and obj.spec.paused then
  return {status = "Suspended", message = "spec.paused is true"}
end
if obj.status == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return health
end
local found = {}
for _, condition in ipairs(obj.status.conditions or {}) do
  found[condition.type] = condition
end
local ready = found.Ready
if found.Stalled ~= nil and found.Stalled.status == "True" then
  return {status = "Degraded", message = found.Stalled.message}
elseif found.Reconciling ~= nil and found.Reconciling.status == "True" then
  return {status = "Progressing", message = found.Reconciling.message}
elseif ready ~= nil and ready.status == "True" then
  return {status = "Healthy", message = ready.message}
elseif ready ~= nil and ready.status == "False" then
  return {status = "Degraded", message = ready.message}
end
return health
