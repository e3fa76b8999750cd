//! A network's layers and what each costs, trained and folded side by side.

use gatefold_layers::Cost;
use gatefold_tensor::{Real, Result};

use crate::{LayerCost, Model, NotFoldable};

/// The costs of a model, layer by layer.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Every layer, in the order of the forward pass.
    pub rows: Vec<Row>,
    /// Why there is no folded side, if there is none.
    pub not_foldable: Option<NotFoldable>,
}

/// One layer.
#[derive(Debug, Clone)]
pub struct Row {
    /// The layer as it is trained.
    pub trained: LayerCost,
    /// What it costs folded.
    pub folded: Option<Cost>,
}

impl Summary {
    /// Of a model for one image of its own input shape. A folded model is its own folded side.
    ///
    /// # Errors
    /// If a map vanishes on the way.
    pub fn of<T: Real>(model: &Model<T>) -> Result<Self> {
        let map = [model.description.input[1], model.description.input[2]];
        let trained = model.network.layers(map)?;
        let (folded, not_foldable) = match model.description.folded {
            true => (Some(trained.clone()), None),
            false => match model.network.fold() {
                Ok(network) => (Some(network.layers(map)?), None),
                Err(e) => (None, Some(e)),
            },
        };
        let mut costs = folded.map(|layers| layers.into_iter().map(|layer| layer.cost));
        let rows = trained.into_iter().map(|trained| Row { trained, folded: costs.as_mut().and_then(Iterator::next) });
        Ok(Summary { rows: rows.collect(), not_foldable })
    }

    /// The whole network as it is trained.
    pub fn trained(&self) -> Cost {
        total(self.rows.iter().map(|row| row.trained.cost))
    }

    /// The whole network folded; `None` if there is no fold.
    pub fn folded(&self) -> Option<Cost> {
        self.rows.iter().map(|row| row.folded).collect::<Option<Vec<_>>>().map(|costs| total(costs.into_iter()))
    }
}

fn total(costs: impl Iterator<Item = Cost>) -> Cost {
    costs.fold(Cost::default(), |mut sum, cost| {
        sum += cost;
        sum
    })
}
