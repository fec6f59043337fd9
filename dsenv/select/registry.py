"""Names of the selectors; a method is imported when it is first built."""

SELECTORS: dict[str, str] = {
    "random": "dsenv.select.random:UniformRandom",
    "fixed_random": "dsenv.select.random:FixedRandom",
    "infobatch": "dsenv.select.infobatch:InfoBatch",
    "ucb": "dsenv.select.ucb:UCB",
    "epsilon_greedy": "dsenv.select.epsilon_greedy:EpsilonGreedy",
    "ranked": "dsenv.select.ranked:Ranked",
    "small_loss": "dsenv.select.small_loss:SmallLoss",
    "trim": "dsenv.select.trim:Trim",
    "order_dp": "dsenv.select.order_dp:OrderDP",
    "rho_loss": "dsenv.select.rho_loss:RhoLoss",
    "data_agent": "dsenv.select.data_agent:DataAgent",
    "el2n": "dsenv.select.ranked:EL2N",
    "forgetting": "dsenv.select.forgetting:Forgetting",
    "grand": "dsenv.select.grand:GraNd",
    "ccs": "dsenv.select.ccs:CCS",
    "moderate": "dsenv.select.moderate:Moderate",
    "herding": "dsenv.select.herding:Herding",
    "k_center": "dsenv.select.k_center:KCenter",
    "glister": "dsenv.select.glister:Glister",
    "divbs": "dsenv.select.divbs:DivBS",
}
"""Name -> "module:class"."""
