"""All routes about what tenants own."""

from services.rollout.http import agents, evaluations, files, fine_tuning, handover, uploads
from services.rollout.http.jobs import submissions

TENANT_ROUTERS = (
    submissions,
    fine_tuning.router,
    files.router,
    files.views,
    uploads.router,
    evaluations.router,
    handover.router,
    agents.router,
)
